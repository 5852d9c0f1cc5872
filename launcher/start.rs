//! The stack of a program that begins (`fs/binfmt_elf.c`, `create_elf_tables`).

// include/uapi/linux/auxvec.h
pub(crate) const AT_NULL: usize = 0;
pub(crate) const AT_EXECFD: usize = 2;
pub(crate) const AT_ENTRY: usize = 9;
pub(crate) const AT_SECURE: usize = 23;

/// What the kernel puts on a new program's stack: the number of arguments, a pointer to each and a
/// null, a pointer to each variable of the environment and a null, pairs of words up to `AT_NULL`. The
/// strings end in NUL. All of it is memory that the program may write.
pub(crate) struct Start {
    pub(crate) argc: usize,
    pub(crate) argv: *mut usize,
    pub(crate) envp: *mut usize,
    pub(crate) auxv: *mut usize,
}

impl Start {
    /// Finds its parts.
    ///
    /// # Safety
    ///
    /// `sp` leads to what the kernel puts on a new program's stack.
    pub(crate) unsafe fn at(sp: *mut usize) -> Self {
        // SAFETY: the number of arguments comes first, so many pointers and a null stand before the
        // environment, and a null ends that.
        unsafe {
            let argv = sp.add(1);
            let envp = argv.add(*sp + 1);
            let mut auxv = envp;
            while *auxv != 0 {
                auxv = auxv.add(1);
            }
            Self { argc: *sp, argv, envp, auxv: auxv.add(1) }
        }
    }

    /// Where the value of this kind is in the auxiliary vector; null if it is not there.
    pub(crate) fn value_of(&self, kind: usize) -> *mut usize {
        // SAFETY: a `Start` is made by `at` alone, so `auxv` leads to pairs up to `AT_NULL`.
        unsafe {
            let mut pair = self.auxv;
            while *pair != AT_NULL {
                if *pair == kind {
                    return pair.add(1);
                }
                pair = pair.add(2);
            }
            core::ptr::null_mut()
        }
    }
}
