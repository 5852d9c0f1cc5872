//! A JSON object of which a few members are to be changed and all others are to stay as they are:
//! their order, and their values to the byte.

use std::borrow::Cow;
use std::fmt;

use anyhow::{Context, Result, anyhow};
use serde::de::{DeserializeOwned, Error, MapAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;

/// An object, its members as text.
#[derive(Debug, Clone, Default)]
pub(super) struct Object<'a> {
    members: Vec<(String, Cow<'a, RawValue>)>,
}

impl<'a> Object<'a> {
    /// Understands `text`. Fails where it is no object, or names a member twice.
    pub(super) fn parse(text: &'a str) -> Result<Self> {
        serde_json::from_str(text).map_err(|error| anyhow!("{error}"))
    }

    /// The text of the member `key`. A member that is null counts as missing.
    #[must_use]
    pub(super) fn text(&self, key: &str) -> Option<&str> {
        let (_, value) = self.members.iter().find(|(name, _)| name == key)?;
        Some(value.get()).filter(|text| *text != "null")
    }

    /// The member `key`, which is an object; an empty one if it is missing.
    pub(super) fn object(&self, key: &str) -> Result<Object<'_>> {
        self.text(key).map_or_else(|| Ok(Object::default()), Object::parse).context(key.to_owned())
    }

    /// The elements of the member `key`, which is a list; none if it is missing.
    pub(super) fn list(&self, key: &str) -> Result<Vec<Box<RawValue>>> {
        self.read(key).map(Option::unwrap_or_default)
    }

    /// The member `key` as a value, if it is there.
    pub(super) fn read<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>> {
        let read = self.text(key).map(serde_json::from_str).transpose();
        read.map_err(|error| anyhow!("{key}: {error}"))
    }

    /// Gives the member `key` this value, in its place if it is there, at the end if not.
    pub(super) fn set(&mut self, key: &str, value: &impl Serialize) -> Result<()> {
        let value = Cow::Owned(serde_json::value::to_raw_value(value)?);
        match self.members.iter_mut().find(|(name, _)| name == key) {
            Some(member) => member.1 = value,
            None => self.members.push((key.to_owned(), value)),
        }
        Ok(())
    }

    /// Leaves only the members whose keys are to be kept.
    pub(super) fn retain(&mut self, keep: impl Fn(&str) -> bool) {
        self.members.retain(|(key, _)| keep(key));
    }
}

impl<'de> Deserialize<'de> for Object<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct MembersVisitor;
        impl<'de> Visitor<'de> for MembersVisitor {
            type Value = Object<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members: Vec<(String, Cow<'de, RawValue>)> = Vec::new();
                while let Some((key, value)) = map.next_entry::<String, &'de RawValue>()? {
                    if members.iter().any(|(name, _)| *name == key) {
                        return Err(A::Error::custom(format_args!("{key:?} is there twice")));
                    }
                    members.push((key, Cow::Borrowed(value)));
                }
                Ok(Object { members })
            }
        }
        deserializer.deserialize_map(MembersVisitor)
    }
}

impl Serialize for Object<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.members.len()))?;
        for (key, value) in &self.members {
            map.serialize_entry(key, value.as_ref())?;
        }
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_touched_stays_as_it_is() {
        let text =
            r#"{"z":1e400,"a":{"n":18446744073709551616, "b":[ 1 ]},"é\u0000":null,"c":"\u00e9"}"#;
        let mut object = Object::parse(text).unwrap();
        let mut inner = object.object("a").unwrap();
        inner.set("b", &[2]).unwrap();
        inner.set("d", &"e").unwrap();
        let inner = serde_json::value::to_raw_value(&inner).unwrap();
        object.set("a", &inner).unwrap();
        assert_eq!(
            serde_json::to_string(&object).unwrap(),
            r#"{"z":1e400,"a":{"n":18446744073709551616,"b":[2],"d":"e"},"é\u0000":null,"c":"\u00e9"}"#
        );
    }

    #[test]
    fn what_is_no_object_is_refused() {
        for (text, part) in [
            ("", "EOF"),
            ("{", "EOF"),
            ("[]", "expected an object"),
            ("null", "expected an object"),
            (r#"{"a":1,"a":2}"#, "\"a\" is there twice"),
            (r#"{"a":1} x"#, "trailing characters"),
        ] {
            let error = Object::parse(text).unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn null_is_missing() {
        let object = Object::parse(r#"{"a":null}"#).unwrap();
        assert_eq!(object.text("a"), None);
        assert!(object.list("a").unwrap().is_empty());
        assert_eq!(object.read::<u8>("a").unwrap(), None);
        assert!(object.object("a").unwrap().text("x").is_none());
    }
}
