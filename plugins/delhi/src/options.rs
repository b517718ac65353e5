//! What `--plugin delhi:key=value` takes, and what it means for each kind of node.

use std::{fs::OpenOptions, io::Read, os::unix::fs::OpenOptionsExt, path::Path};

use serde::Deserialize;
use unswag_kernels::delhi::tables::Histogram;
use unswag_sdk::{Error, Info, bail, error, opt};

/// The options as the user gave them.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub struct Options {
    pub mode: Mode,
    pub group: u64,
    pub rounding: Rounding,
    pub weighting: NamedWeighting,
    /// Empty: none.
    pub calibration: String,
    pub layers: String,
}

/// How many bits of each saved activation are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum Mode {
    #[serde(rename = "exact")]
    Exact,
    #[serde(rename = "8bit")]
    Bits8,
    #[serde(rename = "4bit")]
    Bits4,
    #[serde(rename = "3bit")]
    Bits3,
    #[serde(rename = "2bit")]
    Bits2,
    #[serde(rename = "1bit")]
    Bits1,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rounding {
    Nearest,
    Stochastic,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NamedWeighting {
    Uniform,
    Normal,
}

/// Declares the options for the manifest; [`Options`] reads what they fill.
pub fn declare(info: Info) -> Info {
    info.option(
        "mode",
        opt::string(
            "What is saved. Gated MLPs: exact (gate and up as they are; value and product recomputed), 8bit, 4bit, 2bit \
             (both grouped and rounded). Un-gated: 1bit to 4bit (a code of the derivative).",
        )
        .default("exact")
        .choices(["exact", "8bit", "4bit", "3bit", "2bit", "1bit"]),
    )
    .option("group", opt::integer("Elements that share a scale, in gated modes of 8 to 2 bits.").default(64).choices([32, 64, 128, 256, 512, 1024]))
    .option(
        "rounding",
        opt::string("Gated modes of 8 to 2 bits: nearest (smallest error) or stochastic (no bias).")
            .default("nearest")
            .choices(["nearest", "stochastic"]),
    )
    .option(
        "weighting",
        opt::string("Un-gated: where the derivative's code is most exact: uniform on [-16, 16], or as the standard normal.")
            .default("uniform")
            .choices(["uniform", "normal"]),
    )
    .option(
        "calibration",
        opt::path("Un-gated: a JSON file of histograms of the activation's input by node path, in place of weighting.")
            .default(""),
    )
    .option("layers", opt::string("Which layers: all, or numbers and ranges (0-9,20).").default("all"))
}

impl Mode {
    /// As the user writes it, and as the node's attribute keeps it.
    pub fn name(self) -> &'static str {
        match self {
            Mode::Exact => "exact",
            Mode::Bits8 => "8bit",
            Mode::Bits4 => "4bit",
            Mode::Bits3 => "3bit",
            Mode::Bits2 => "2bit",
            Mode::Bits1 => "1bit",
        }
    }

    pub fn suits_gated(self) -> bool {
        matches!(self, Mode::Exact | Mode::Bits8 | Mode::Bits4 | Mode::Bits2)
    }

    /// Bits of the derivative's code, where the mode is one for un-gated activations.
    pub fn code_bits(self) -> Option<u32> {
        match self {
            Mode::Bits1 => Some(1),
            Mode::Bits2 => Some(2),
            Mode::Bits3 => Some(3),
            Mode::Bits4 => Some(4),
            Mode::Exact | Mode::Bits8 => None,
        }
    }
}

/// Which layers to operate on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Layers {
    All,
    /// Inclusive ranges.
    Ranges(Vec<(u64, u64)>),
}

impl Layers {
    /// `all`, or numbers and ranges divided by commas: `0-9,20`.
    pub fn parse(text: &str) -> Result<Self, Error> {
        if text == "all" {
            return Ok(Layers::All);
        }
        let range = |part: &str| -> Option<(u64, u64)> {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let range = (first.trim().parse().ok()?, last.trim().parse().ok()?);
            (range.0 <= range.1).then_some(range)
        };
        text.split(',')
            .map(|part| {
                range(part)
                    .ok_or_else(|| error!("layers: expected all, or numbers and ranges like 0-9,20, got {part:?}"))
            })
            .collect::<Result<_, _>>()
            .map(Layers::Ranges)
    }

    /// Whether the node at `path` is in them. A path without a number is in no layer but `all`.
    pub fn contain(&self, path: &str) -> bool {
        let Layers::Ranges(ranges) = self else { return true };
        let layer = path.split('.').find_map(|part| part.parse::<u64>().ok());
        layer.is_some_and(|layer| ranges.iter().any(|&(first, last)| (first..=last).contains(&layer)))
    }
}

/// Histograms by node path, as the user's calibration run counted them.
#[derive(Clone, Debug, Default)]
pub struct Calibration(std::collections::BTreeMap<String, Histogram>);

/// A calibration file beyond this size is not one.
const MAX_CALIBRATION_BYTES: u64 = 64 << 20;

impl Calibration {
    /// # Errors
    /// A file that cannot be read, is too large, or is not a JSON object of histograms.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let at = |reason: String| error!("calibration {}: {reason}", path.display());
        // O_NONBLOCK: opening a named pipe that has no writer would wait for one.
        let opened = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path);
        let file = opened.map_err(|error| at(error.to_string()))?;
        if !file.metadata().is_ok_and(|metadata| metadata.is_file()) {
            return Err(at("expected a file, found a folder, a pipe or a device".to_owned()));
        }
        let mut text = Vec::new();
        file.take(MAX_CALIBRATION_BYTES + 1).read_to_end(&mut text).map_err(|error| at(error.to_string()))?;
        if text.len() as u64 > MAX_CALIBRATION_BYTES {
            return Err(at(format!("expected at most {MAX_CALIBRATION_BYTES} bytes of histograms, got more")));
        }
        let histograms = unswag_sdk::serde_json::from_slice(&text)
            .map_err(|error| at(format!("expected {{\"node path\": histogram, …}}: {error}")))?;
        Ok(Self(histograms))
    }

    /// What was counted at the node at `path`.
    pub fn histogram(&self, path: &str) -> Result<&Histogram, Error> {
        let Some(histogram) = self.0.get(path) else {
            let known: Vec<&str> = self.0.keys().take(3).map(String::as_str).collect();
            bail!("calibration: no histogram for {path}; the file has {} (first: {})", self.0.len(), known.join(", "));
        };
        Ok(histogram)
    }
}
