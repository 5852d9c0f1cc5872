//! A JSON object as its members. Where serde's maps would take the last of two that are the same, this
//! is an error: of a policy, nothing is to be lost silently.

use std::fmt;
use std::marker::PhantomData;

use serde::de::value::StrDeserializer;
use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

/// The members of an object, in its order. Two keys are the same if what they stand for is.
#[derive(Debug)]
pub struct Members<K, V>(pub Vec<(K, V)>);

impl<'de, K: Deserialize<'de> + PartialEq, V: Deserialize<'de>> Deserialize<'de> for Members<K, V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Each(PhantomData))
    }
}

struct Each<K, V>(PhantomData<(K, V)>);

impl<'de, K: Deserialize<'de> + PartialEq, V: Deserialize<'de>> Visitor<'de> for Each<K, V> {
    type Value = Members<K, V>;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let (mut names, mut members) = (Vec::<String>::new(), Vec::<(K, V)>::new());
        while let Some(name) = map.next_key::<String>()? {
            let key = K::deserialize(StrDeserializer::<A::Error>::new(&name))?;
            if let Some(i) = members.iter().position(|(before, _)| *before == key) {
                return Err(A::Error::custom(format!(
                    "it is the same as \"{}\" before it; remove one",
                    names[i]
                )));
            }
            members.push((key, map.next_value()?));
            names.push(name);
        }
        Ok(Members(members))
    }
}
