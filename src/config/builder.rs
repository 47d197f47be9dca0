//! From the five sources to one [`Config`].

use std::ffi::OsString;
use std::path::PathBuf;

use super::{Config, Value};
use crate::Result;

/// Collects the five sources of a configuration; the application's `configure_hook` is given one.
#[derive(Debug, Default)]
pub struct ConfigBuilder {}

/// What came of the sources.
#[derive(Debug)]
pub enum Outcome {
    /// A configuration to run with.
    Config(Box<Config>),
    /// The help text: print it on standard output and exit with status 0.
    Help(String),
    /// The version: print it on standard output and exit with status 0.
    Version(String),
}

#[allow(unused_variables, reason = "signatures first")]
impl ConfigBuilder {
    /// A builder without any source.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
    /// Strongest source.
    pub fn set(&mut self, key: &str, value: impl Into<Value>) -> &mut Self {
        todo!()
    }
    /// Weakest source.
    pub fn set_default(&mut self, key: &str, value: impl Into<Value>) -> &mut Self {
        todo!()
    }
    /// File from code.
    pub fn conf_file(&mut self, path: impl Into<PathBuf>) -> &mut Self {
        todo!()
    }
    /// File that is read if nobody named another and it exists.
    pub fn conf_file_if_exists(&mut self, path: impl Into<PathBuf>) -> &mut Self {
        todo!()
    }
    /// The file's text, already read.
    pub fn conf_text(&mut self, path: impl Into<PathBuf>, text: impl Into<String>) -> &mut Self {
        todo!()
    }
    /// Program name.
    pub fn app_name(&mut self, name: impl Into<String>) -> &mut Self {
        todo!()
    }
    /// Program version.
    pub fn version(&mut self, version: impl Into<String>) -> &mut Self {
        todo!()
    }
    /// One sentence.
    pub fn about(&mut self, text: impl Into<String>) -> &mut Self {
        todo!()
    }
    /// The application's own option.
    pub fn app_option(&mut self, name: &str, value_hint: &str, help: &str) -> &mut Self {
        todo!()
    }
    /// The application's own log writer.
    pub fn log_function(&mut self, function: impl Fn(log::Level, &str) + Send + Sync + 'static) -> &mut Self {
        todo!()
    }
    /// The command line, without the program's name.
    pub fn arguments<I>(&mut self, arguments: I) -> &mut Self
    where
        I: IntoIterator<Item: Into<OsString>>,
    {
        todo!()
    }
    /// Arguments to `run`.
    pub fn run_arguments<I>(&mut self, arguments: I) -> &mut Self
    where
        I: IntoIterator<Item: Into<OsString>>,
    {
        todo!()
    }
    /// Puts the sources together.
    ///
    /// # Errors
    /// Every mistake, one line each.
    pub fn build(self) -> Result<Outcome> {
        todo!()
    }
}
