//! Conversations as training reads them: rendered by the model's own template, with the loss on the assistant's turns.
//!
//! Every row is rendered, encoded and judged once before the first step, because what is wrong with one must not show
//! in the middle of a run: a row that supervises nothing, or a data set that never shows the model how a turn ends.

mod end_of_turn;

use std::{collections::BTreeSet, ops::Range, sync::Arc};

use serde_json::{Map, Value as Json};

use crate::{
    batch::{IGNORED, Row},
    columns::Columns,
    conversation::{self, Conversation},
    data_set::DataSet,
    doc::Doc,
    encoded_rows::{EncodedRows, Inspection, RowEncoder, Taken, encode_at, no_row, plan, too_long},
    error::{Error, Place, RowFault},
    jinja::Value,
    loader::{RowRemarks, Windowed, delegate_loader, fingerprint},
    message::Message,
    options::{Overlong, Split, check_block_size, check_window, setting},
    roles,
    template::{ChatTemplate, Rendered, Rendering, value, variables},
    tokenizer::{Token, Tokenizer},
    turns::{self, Job, Render, Scene},
    unwritten::{RenderWithout, unwritten},
};

/// How conversations become rows.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ChatOptions {
    /// Most tokens of a row.
    pub block_size: usize,
    /// Puts several conversations into a row, each attended to on its own.
    pub packing: bool,
    pub overlong: Overlong,
    /// Which columns hold the conversations, or the prompts and completions that become ones.
    pub columns: Columns,
    pub split: Split,
    /// Shuffles the files, and the rows within each window of `shuffle_window` conversations.
    pub shuffle_seed: Option<u64>,
    /// Conversations that are held in memory to be shuffled and packed.
    pub shuffle_window: usize,
    /// Further variables of the template, such as `enable_thinking`.
    pub template_variables: Map<String, Json>,
    /// Takes rows whose tools or documents the template does not write; else each is an error.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub ignore_unwritten_tools: bool,
}

impl Default for ChatOptions {
    fn default() -> Self {
        ChatOptions {
            block_size: 2048,
            packing: false,
            overlong: Overlong::Refuse,
            columns: Columns::default(),
            split: Split::All,
            shuffle_seed: None,
            shuffle_window: 1024,
            template_variables: Map::new(),
            ignore_unwritten_tools: false,
        }
    }
}

impl ChatOptions {
    /// # Errors
    /// A value that cannot be.
    pub fn check(&self) -> Result<(), Error> {
        check_block_size(self.block_size)?;
        check_window(self.shuffle_window)?;
        self.split.check()
    }
}

/// What the rows of a chat data set are like.
#[derive(Debug, Default)]
pub struct ChatReport {
    /// Sound rows.
    pub rows: u64,
    /// Rows left out because they are too long.
    pub skipped_rows: u64,
    /// Rows of the other part of the split.
    pub other_rows: u64,
    /// Rows whose end was cut off.
    pub truncated_rows: u64,
    pub tokens: u64,
    pub supervised_tokens: u64,
    pub longest_row_tokens: u64,
    /// Rows with an assistant's turn that is learned and says nothing.
    pub empty_completions: u64,
    /// Ids that end an assistant's turn and are learned.
    pub end_of_turn_ids: BTreeSet<u32>,
    /// The first faults, by line; `fault_count` counts all.
    pub faults: Vec<Error>,
    pub fault_count: u64,
    /// Where the reading of a file stopped, for it cannot be read further: the rows behind are not counted.
    pub stops: Vec<Place>,
    /// Why turns have no supervised end, and where that was first seen.
    open_end: Option<(Place, OpenEnd)>,
}

/// Why no end of an assistant's turn is learned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum OpenEnd {
    /// The template writes this token behind the turn, but not inside of what it marks as generated.
    Outside(u32),
    /// The row was cut before it.
    Cut,
    /// The template writes no special token there.
    Missing,
}

/// A rendered and encoded conversation.
struct Built {
    ids: Vec<u32>,
    labels: Vec<i64>,
    is_truncated: bool,
    is_empty: bool,
    ends: Vec<Result<u32, OpenEnd>>,
}

/// Conversations in rows of at most `block_size` tokens, one a row or packed, with labels on the assistant's turns
/// alone.
///
/// A turn is learned from the end of its generation prompt to the token that ends it, and that token with it.
pub struct ChatDataLoader(Windowed<EncodedRows<Chat>>);

delegate_loader!(ChatDataLoader);

impl ChatDataLoader {
    /// Opens files of rows, given as paths or glob patterns, and reads them through once.
    ///
    /// # Errors
    /// An option that cannot be; a file that cannot be read; the first row with a fault, one without a supervised
    /// token among them; data of which no row supervises the end of a turn.
    pub fn open(
        patterns: &[String],
        tokenizer: Arc<Tokenizer>,
        template: Arc<ChatTemplate>,
        options: &ChatOptions,
    ) -> Result<Self, Error> {
        let loader = Self::unchecked(patterns, tokenizer, template, options)?;
        let mut report = loader.inspect(true)?;
        report.check(loader.chat())?;
        Ok(ChatDataLoader(loader.0.with_remarks(report.remarks())))
    }

    /// Reads the rows through and says what they are like, the faults of all of them.
    ///
    /// # Errors
    /// As [`ChatDataLoader::open`], but for faults of rows.
    pub fn report(
        patterns: &[String],
        tokenizer: Arc<Tokenizer>,
        template: Arc<ChatTemplate>,
        options: &ChatOptions,
    ) -> Result<ChatReport, Error> {
        let loader = Self::unchecked(patterns, tokenizer, template, options)?;
        let mut report = loader.inspect(false)?;
        if report.faults.is_empty()
            && let Err(error) = report.check(loader.chat())
        {
            report.fault_count += 1;
            report.faults.push(error);
        }
        Ok(report)
    }

    /// The first sound rows in the files' own order, each with its line.
    ///
    /// # Errors
    /// A file cannot be read.
    pub(crate) fn first_rows(
        patterns: &[String],
        tokenizer: Arc<Tokenizer>,
        template: Arc<ChatTemplate>,
        options: &ChatOptions,
        count: usize,
    ) -> Result<Vec<(Place, Row)>, Error> {
        let options = ChatOptions { shuffle_seed: None, ..options.clone() };
        let loader = Self::unchecked(patterns, tokenizer, template, &options)?;
        EncodedRows::new(loader.chat().clone(), 0).first_rows(count)
    }

    fn unchecked(
        patterns: &[String],
        tokenizer: Arc<Tokenizer>,
        template: Arc<ChatTemplate>,
        options: &ChatOptions,
    ) -> Result<Self, Error> {
        options.check()?;
        let data = DataSet::open(patterns, &options.columns, true)?;
        // The date is part of the data where the template writes it.
        let now = template.asks_for_the_date().then(|| template.now().to_owned());
        let named = ("chat", options, data.shapes(), template.source(), now.as_deref());
        let plan = plan(
            (options.block_size, options.packing),
            (options.shuffle_seed, options.shuffle_window),
            tokenizer.pad_id(),
            fingerprint(data.files.iter().map(|file| &file.digest), tokenizer.digest(), &named),
        );
        let extra = variables(&options.template_variables).map_err(|fault| {
            setting("template_variables", "values nested less deeply".to_owned(), fault.to_string())
        })?;
        let chat = Arc::new(Chat { data, tokenizer, template, extra, options: options.clone() });
        Ok(ChatDataLoader(Windowed::new(EncodedRows::new(chat, 0), plan).with_template_date(now)))
    }

    fn chat(&self) -> &Arc<Chat> {
        &self.0.source().encoder
    }

    fn inspect(&self, stop_at_fault: bool) -> Result<ChatReport, Error> {
        let mut report = ChatReport::default();
        let rows = EncodedRows::new(self.chat().clone(), 0);
        let found = rows.inspect(stop_at_fault, |place, built| report.add(place, built))?;
        let Inspection { skipped_rows, other_rows, faults, fault_count, stops } = found;
        Ok(ChatReport { skipped_rows, other_rows, faults, fault_count, stops, ..report })
    }
}

impl ChatReport {
    /// What is no fault, and may not be meant.
    pub fn remarks(&self) -> RowRemarks {
        RowRemarks { rows: self.rows, empty_completions: self.empty_completions, shared_tokens: 0 }
    }

    fn add(&mut self, place: &Place, built: &Built) {
        self.rows += 1;
        self.truncated_rows += u64::from(built.is_truncated);
        self.empty_completions += u64::from(built.is_empty);
        self.tokens += built.ids.len() as u64;
        self.supervised_tokens += built.labels.iter().filter(|label| **label != IGNORED).count() as u64;
        self.longest_row_tokens = self.longest_row_tokens.max(built.ids.len() as u64);
        for end in &built.ends {
            match end {
                Ok(id) => {
                    self.end_of_turn_ids.insert(*id);
                }
                Err(open_end) => {
                    self.open_end.get_or_insert((place.clone(), *open_end));
                }
            }
        }
    }

    fn check(&mut self, chat: &Chat) -> Result<(), Error> {
        if !self.faults.is_empty() {
            return Err(self.faults.remove(0));
        }
        if self.rows == 0 {
            return Err(no_row(&chat.data.files, &chat.options.split, self.skipped_rows, self.other_rows));
        }
        if !self.end_of_turn_ids.is_empty() {
            return Ok(());
        }
        let (first, open_end) = self.open_end.clone().expect("a sound row has a turn, and no turn has a learned end");
        let piece = |id| chat.tokenizer.piece(id).unwrap_or_default();
        let expected = match chat.tokenizer.eos_ids() {
            [] => "the tokenizer states none".to_owned(),
            ids => ids.iter().map(|id| piece(*id)).collect::<Vec<_>>().join(" or "),
        };
        let (why, next) = match open_end {
            OpenEnd::Outside(id) => (
                format!("the chat template writes {} after the turn, but outside of {{% generation %}}", piece(id)),
                "move {% endgeneration %} after it".to_owned(),
            ),
            OpenEnd::Cut => (
                format!("every row is cut at {} tokens, before a turn ends", chat.options.block_size),
                "raise the block size".to_owned(),
            ),
            OpenEnd::Missing => (
                "the chat template writes no special token after a turn that belongs to it".to_owned(),
                "give a template that ends each turn with one, or marks turns with {% generation %}".to_owned(),
            ),
        };
        Err(Error::EndOfTurn { first, expected, why, next })
    }
}

/// What is read, and how; shared by every reader of it.
struct Chat {
    data: DataSet,
    tokenizer: Arc<Tokenizer>,
    template: Arc<ChatTemplate>,
    extra: Vec<(String, Value)>,
    options: ChatOptions,
}

impl RowEncoder for Chat {
    type Built = Built;

    fn data(&self) -> &DataSet {
        &self.data
    }

    fn shuffle_seed(&self) -> Option<u64> {
        self.options.shuffle_seed
    }

    fn encode(&self, file: usize, place: &Place, row: &str) -> Result<Taken<Built>, Error> {
        let shape = self.data.shape(file)?;
        let conversation = shape
            .conversation(row)
            .and_then(conversation::of_object)
            .and_then(|conversation| roles::settle(conversation, self.template.source()));
        Ok(match conversation.map_err(Judged::from).and_then(|conversation| self.judge(place, &conversation)) {
            Ok(taken) => taken,
            Err(Judged::Fault(fault)) => Taken::Bad(fault),
            Err(Judged::Fatal(error)) => return Err(error),
        })
    }

    fn into_row(built: Built) -> Row {
        Row::document(built.ids, built.labels)
    }
}

impl Chat {
    fn judge(&self, place: &Place, conversation: &Conversation) -> Result<Taken<Built>, Judged> {
        if !self.is_of_this_part(conversation) {
            return Ok(Taken::OtherPart);
        }
        let template = RowTemplate::new(self, conversation);
        let scene = Scene::new(&template, self.tokenizer.as_ref(), conversation);
        // A template that knows no calls fails on a turn without content, or leaves out the tools: the calls are why.
        let because_of_calls = |fault: RowFault| match self.unknown_calls(conversation, &template) {
            Some(index) => RowFault::UnwrittenCalls { index },
            None => fault,
        };
        let rendered = scene.rendered().map_err(because_of_calls)?;
        let tokens = encode_at(&self.tokenizer, place, &rendered.text).map_err(Judged::Fatal)?;
        // The length comes first: it costs one rendering, the turns several.
        let limit = self.options.block_size;
        let is_too_long = tokens.len() > limit;
        if let Some(taken) = too_long(self.options.overlong, tokens.len(), limit) {
            return Ok(taken);
        }
        if !self.options.ignore_unwritten_tools
            && let Some(name) = unwritten(&template, conversation, &rendered.text)
        {
            return Err(because_of_calls(RowFault::Unwritten { name }).into());
        }
        let supervised = turns::find(&scene, &rendered)?;
        let is_marked = !rendered.generated.is_empty();
        let mut labels = vec![IGNORED; tokens.len()];
        let mut ends = Vec::new();
        let mut from = 0;
        for turn in &supervised {
            let (first, last) = tokens_of(&tokens, from, turn);
            for at in first..last {
                labels[at] = i64::from(tokens[at].id);
            }
            ends.push(self.end_of(&tokens, first..last, &rendered, turn.end, limit, is_marked));
            from = last;
        }
        let all = labels.iter().filter(|label| **label != IGNORED).count();
        labels.truncate(limit);
        // The first token is predicted from nothing.
        if labels.iter().skip(1).all(|label| *label == IGNORED) {
            return Err(RowFault::NoSupervised { why: why_nothing(conversation, all, limit) }.into());
        }
        let ids = tokens.iter().take(limit).map(|token| token.id).collect();
        let is_empty = conversation
            .messages
            .iter()
            .any(|message| message.is_assistant() && message.is_learned && message.says_nothing());
        Ok(Taken::Row(Built { ids, labels, is_truncated: is_too_long, is_empty, ends }))
    }

    /// The first turn with calls, where the template has no word of them.
    fn unknown_calls(&self, conversation: &Conversation, template: &RowTemplate<'_>) -> Option<usize> {
        let calls = |message: &Message| match message.fields.get("tool_calls") {
            Some(Doc::List(calls)) => !calls.is_empty(),
            _ => false,
        };
        let first = conversation.messages.iter().position(calls)?;
        (!self.template.mentions("tool_calls", &template.variables)).then_some(first)
    }

    fn is_of_this_part(&self, conversation: &Conversation) -> bool {
        if self.options.split == Split::All {
            return true;
        }
        let text = |message: &Message| value(&Doc::Object(message.fields.clone())).to_text();
        self.options.split.takes(&conversation.messages.iter().map(text).collect::<String>())
    }

    fn ends_turn(&self, id: u32) -> bool {
        self.tokenizer.is_special(id) || self.tokenizer.eos_ids().contains(&id)
    }

    /// The token that ends a turn, or why none is learned.
    fn end_of(
        &self,
        tokens: &[Token],
        turn: Range<usize>,
        rendered: &Rendered,
        end: usize,
        limit: usize,
        is_marked: bool,
    ) -> Result<u32, OpenEnd> {
        if turn.end > limit {
            return Err(OpenEnd::Cut);
        }
        // White space may follow the token where the template marks more than it.
        let is_last = |token: &&Token| {
            let behind = rendered.text.get(token.end as usize..end.max(token.end as usize));
            self.ends_turn(token.id) && behind.is_some_and(|behind| behind.trim().is_empty())
        };
        match (tokens[turn.clone()].iter().rev().find(is_last), tokens.get(turn.end)) {
            (Some(token), _) => Ok(token.id),
            (None, Some(next)) if is_marked && self.ends_turn(next.id) => Err(OpenEnd::Outside(next.id)),
            (None, _) => Err(OpenEnd::Missing),
        }
    }
}

/// The tokens that a turn's bytes are in, from a token on.
fn tokens_of(tokens: &[Token], from: usize, turn: &Range<usize>) -> (usize, usize) {
    let (start, end) = (turn.start as u64, turn.end as u64);
    let is_ahead = |token: &&Token| token.end <= start || token.start >= end;
    let first = from + tokens[from..].iter().take_while(is_ahead).count();
    (first, first + tokens[first..].iter().take_while(|token| token.start < end).count())
}

/// Why a row has nothing to learn.
fn why_nothing(conversation: &Conversation, supervised: usize, limit: usize) -> String {
    let mut turns = conversation.messages.iter().filter(|message| message.is_assistant()).peekable();
    if supervised > 0 {
        return format!("the assistant's first word comes after the {limit} tokens of a block; raise the block size");
    }
    if turns.peek().is_none() {
        return "no message has the role \"assistant\"; remove the row, or correct its roles".to_owned();
    }
    if turns.all(|message| !message.is_learned) {
        return "all assistant messages have weight 0, train: false or training: false; remove the row".to_owned();
    }
    "the assistant's turns are empty; remove the row".to_owned()
}

/// The template with the variables of a row.
struct RowTemplate<'a> {
    template: &'a ChatTemplate,
    /// The user's, and then the row's, which count more.
    variables: Vec<(String, Value)>,
}

impl<'a> RowTemplate<'a> {
    fn new(chat: &'a Chat, conversation: &Conversation) -> Self {
        let mut variables = chat.extra.clone();
        variables.extend(conversation.variables.iter().map(|(name, list)| ((*name).to_owned(), value(list))));
        RowTemplate { template: &chat.template, variables }
    }
}

impl Render for RowTemplate<'_> {
    fn render(&self, jobs: &[Job<'_>]) -> Vec<Result<Rendered, RowFault>> {
        let lists: Vec<Vec<Value>> = jobs.iter().map(|job| job.messages.iter().map(value).collect()).collect();
        let renderings: Vec<_> = jobs
            .iter()
            .zip(&lists)
            .map(|(job, messages)| Rendering { messages, add_generation_prompt: job.add_generation_prompt })
            .collect();
        self.template.render_many(&renderings, &self.variables)
    }
}

impl RenderWithout for RowTemplate<'_> {
    fn render_without(&self, name: &str, messages: &[Doc]) -> Result<String, RowFault> {
        let messages: Vec<_> = messages.iter().map(value).collect();
        let others: Vec<_> = self.variables.iter().filter(|(other, _)| other != name).cloned().collect();
        Ok(self.template.render_values(&messages, false, &others)?.text)
    }
}

/// Why a line gave no row.
enum Judged {
    Fault(RowFault),
    Fatal(Error),
}

impl From<RowFault> for Judged {
    fn from(fault: RowFault) -> Self {
        Judged::Fault(fault)
    }
}
