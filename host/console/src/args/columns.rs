//! What the columns of a data set mean.

use clap::{Args, ValueEnum};

/// Which columns are read, and as what.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Columns")]
pub struct DataColumns {
    /// The format of the rows; `auto` detects it from the names of the columns.
    #[arg(long, value_enum, default_value_t = DataFormat::Auto)]
    pub data_format: DataFormat,
    /// The column with the text of a row. [default: text]
    #[arg(long, visible_alias = "text-field", value_name = "NAME", conflicts_with = "chat")]
    pub text_column: Option<String>,
    /// The prompt, or Alpaca's instruction. [default: prompt, question, query, problem or input; instruction]
    #[arg(long, value_name = "NAME", conflicts_with = "text_column")]
    pub prompt_column: Option<String>,
    /// Alpaca's input. [default: input or context]
    #[arg(long, value_name = "NAME", conflicts_with = "text_column")]
    pub input_column: Option<String>,
    /// The completion, or Alpaca's output; the loss is taken on it alone. [default: completion, response, answer,
    /// output or solution]
    #[arg(long, value_name = "NAME", conflicts_with = "text_column")]
    pub completion_column: Option<String>,
    /// The system prompt of a row. [default: system or system_prompt]
    #[arg(long, value_name = "NAME", conflicts_with = "text_column")]
    pub system_column: Option<String>,
    /// Alpaca's earlier turns, pairs of instruction and response; with --chat. [default: history]
    #[arg(long, value_name = "NAME", requires = "chat")]
    pub history_column: Option<String>,
    /// The list of messages of a conversation; with --chat. [default: messages or conversations]
    #[arg(long, value_name = "NAME", requires = "chat")]
    pub messages_column: Option<String>,
}

/// What rows are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum DataFormat {
    /// Detected from the names of the columns.
    #[default]
    Auto,
    /// One text per row.
    Text,
    /// A prompt and its completion.
    Completion,
    /// Stanford Alpaca's instruction, input and output.
    Alpaca,
    /// Conversations of `from` and `value`; with --chat.
    Sharegpt,
    /// Conversations of `role` and `content`; with --chat.
    Chat,
}
