//! The forms in which collections come and go; `import` and `export` use the same words.

use clap::ValueEnum;

/// Form of an import's input and an export's output.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Format {
    /// A directory: the key is the relative path, the value is the file.
    Tree,
    /// One value a line, as it is; an import takes the key from the field --key of the JSON.
    Lines,
    /// One record a line, with key, value and content type, whatever their bytes.
    Jsonl,
}
