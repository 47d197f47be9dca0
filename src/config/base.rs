//! What a relative path is relative to.

use std::path::{Path, PathBuf};

/// A directory by its name: it need not be there, nor be open to this user, for a path to have its meaning.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Base {
    /// The one that this process is in.
    #[default]
    Current,
    /// Another one.
    At(PathBuf),
    /// One that is gone: a relative path has no meaning.
    Gone,
}

impl Base {
    /// `path` from the root.
    pub(super) fn absolute(&self, path: &Path) -> Result<PathBuf, String> {
        let refuse = |why: &str| Err(format!("`{}` cannot be made absolute: {why}", path.display()));
        match self {
            // An empty one is refused whatever the base.
            Self::At(directory) if !path.as_os_str().is_empty() => std::path::absolute(directory.join(path)),
            Self::Gone if path.is_relative() => {
                return refuse("the directory that the server was started in is gone");
            }
            _ => std::path::absolute(path),
        }
        .or_else(|error| refuse(&error.to_string()))
    }

    /// `path` as this process can open it.
    pub(super) fn reach(&self, path: &Path) -> Result<PathBuf, String> {
        // As it was written, where that does: messages name it.
        if *self == Self::Current { Ok(path.to_owned()) } else { self.absolute(path) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_relative_path_means_what_it_meant_in_its_directory_which_need_not_be_there() {
        let base = Base::At("/no/such/directory".into());
        for (path, expected) in
            [("x", "/no/such/directory/x"), ("./x/../y", "/no/such/directory/x/../y"), ("/x", "/x")]
        {
            assert_eq!(base.absolute(Path::new(path)).as_deref(), Ok(Path::new(expected)), "{path}");
        }
        let here = std::env::current_dir().unwrap().join("x");
        assert_eq!(Base::Current.absolute(Path::new("x")), Ok(here));
        assert_eq!(Base::Current.reach(Path::new("x")), Ok("x".into()));
        assert_eq!(base.reach(Path::new("x")), Ok("/no/such/directory/x".into()));
        assert_eq!(Base::Gone.absolute(Path::new("/x")), Ok("/x".into()));
        assert!(Base::Gone.absolute(Path::new("x")).unwrap_err().ends_with("was started in is gone"));
        for base in [Base::Current, Base::At("/".into()), Base::Gone] {
            assert!(base.absolute(Path::new("")).is_err(), "{base:?}");
        }
    }
}
