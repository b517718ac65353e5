//! Which tokens end an assistant's turn, asked of a chat template itself.

use std::{collections::BTreeSet, path::PathBuf, sync::Arc};

use super::{Chat, ChatDataLoader, ChatOptions, OpenEnd};
use crate::{
    conversation, data_set::DataSet, encoded_rows::Taken, error::Place, template::ChatTemplate, tokenizer::Tokenizer,
};

/// A conversation that every template takes.
const CONVERSATION: &str = r#"{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"},
    {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}"#;

impl ChatDataLoader {
    /// The ids after an assistant's turn as this template writes it: those that [`ChatReport::end_of_turn_ids`](super::ChatReport::end_of_turn_ids) has for data, found in a
    /// short conversation. Empty where the template rejects that conversation, or writes no special token after a turn.
    pub fn end_of_turn_ids(tokenizer: &Arc<Tokenizer>, template: &Arc<ChatTemplate>) -> BTreeSet<u32> {
        let chat = Chat {
            data: DataSet::default(),
            tokenizer: tokenizer.clone(),
            template: template.clone(),
            extra: Vec::new(),
            options: ChatOptions::default(),
        };
        let place = Place { path: PathBuf::new(), line: 1 };
        let conversation = conversation::parse(CONVERSATION).expect("it has the form that is read");
        let Ok(Taken::Row(built)) = chat.judge(&place, &conversation) else { return BTreeSet::new() };
        let written = built.ends.into_iter().filter_map(|end| match end {
            Ok(id) | Err(OpenEnd::Outside(id)) => Some(id),
            Err(OpenEnd::Cut | OpenEnd::Missing) => None,
        });
        written.collect()
    }
}
