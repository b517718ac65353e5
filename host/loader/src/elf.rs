//! What a file is, read from its bytes alone: whether it could be a plugin for this machine, and if not, what it is instead.
//!
//! Input: the bytes of a file that nobody has agreed to trust. This must never run them (no dlopen), never panic, and
//! never believe an offset before comparing it with the file's length.

use std::mem::size_of;

use object::{
    LittleEndian as LE, Object as _, ObjectSymbol as _, SymbolKind,
    elf::{self, FileHeader64, ProgramHeader64, SectionHeader64},
    read::elf::ElfFile64,
};
use unswag_abi::abi_stable::library::{AbiHeader, ROOT_MODULE_LOADER_NAME};

/// `e_machine` of the machine this was compiled for.
#[cfg(target_arch = "x86_64")]
const HOST_MACHINE: elf::Machine = elf::EM_X86_64;
#[cfg(target_arch = "aarch64")]
const HOST_MACHINE: elf::Machine = elf::EM_AARCH64;

/// Why a file is not a plugin for this machine. Each says what the file is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAPlugin {
    #[error("{found}, not a shared library (ELF); a plugin is the lib*.so that `cargo build` makes of a cdylib crate")]
    OtherFormat { found: String },

    #[error("built for {found}, this machine is {host}; build the plugin on, or for, this machine")]
    OtherMachine { found: String, host: String },

    #[error("{what}, not a shared library; a plugin is the lib*.so that `cargo build` makes of a cdylib crate")]
    NotShared { what: &'static str },

    #[error("truncated: {what} end at byte {needs}, the file has {file_bytes}; copy or build it again")]
    Truncated { what: String, needs: u128, file_bytes: usize },

    #[error("a damaged ELF file: {0}")]
    Damaged(String),

    #[error(
        "{what}, but not an unswag plugin: it does not export `{}`; a plugin calls `export_plugin!`",
        ROOT_MODULE_LOADER_NAME
    )]
    NoRootModule { what: &'static str },
}

/// Checks that `bytes` is a complete shared library for this machine that exports a plugin's root module.
///
/// # Errors
/// What the file is instead, or what is missing of it.
pub fn check_plugin_library(bytes: &[u8]) -> Result<(), NotAPlugin> {
    check_identity(bytes)?;
    let what = check_extents(bytes)?;
    check_root_module(bytes, what)
}

/// Checks what the first 64 bytes say. Files that are something else altogether fail here, however long they are.
pub fn check_identity(bytes: &[u8]) -> Result<(), NotAPlugin> {
    if !bytes.starts_with(&elf::ELFMAG) {
        return Err(NotAPlugin::OtherFormat { found: describe(bytes).to_owned() });
    }
    let header = header(bytes)?;
    let found = match (header.e_ident.class, header.e_ident.data) {
        (elf::ELFCLASS64, elf::ELFDATA2LSB) => None,
        // A 32-bit header is laid out differently, but `e_machine` stands in the same place.
        (elf::ELFCLASS32, elf::ELFDATA2LSB) => Some(format!("32-bit {}", machine_name(header.e_machine.get(LE).0))),
        (_, elf::ELFDATA2MSB) => Some("a big-endian machine".to_owned()),
        (class, data) => return Err(NotAPlugin::Damaged(format!("class {}, byte order {}", class.0, data.0))),
    };
    let machine = header.e_machine.get(LE);
    match found.or_else(|| (machine != HOST_MACHINE).then(|| machine_name(machine.0))) {
        None => Ok(()),
        Some(found) => Err(NotAPlugin::OtherMachine { found, host: machine_name(HOST_MACHINE.0) }),
    }
}

fn header(bytes: &[u8]) -> Result<&FileHeader64<LE>, NotAPlugin> {
    object::pod::from_bytes::<FileHeader64<LE>>(bytes)
        .map(|(header, _)| header)
        .map_err(|()| truncated("the ELF header", size_of::<FileHeader64<LE>>() as u128, bytes))
}

fn truncated(what: impl Into<String>, needs: u128, bytes: &[u8]) -> NotAPlugin {
    NotAPlugin::Truncated { what: what.into(), needs, file_bytes: bytes.len() }
}

/// Checks that everything the headers point at lies within the file. ld.so maps what they say, and a page beyond the end
/// of the file is a SIGBUS. Returns what the file is, in words.
fn check_extents(bytes: &[u8]) -> Result<&'static str, NotAPlugin> {
    let header = header(bytes)?;
    match header.e_type.get(LE) {
        elf::ET_DYN => {}
        elf::ET_EXEC => return Err(NotAPlugin::NotShared { what: "an executable" }),
        elf::ET_REL => return Err(NotAPlugin::NotShared { what: "an object file (.o)" }),
        elf::ET_CORE => return Err(NotAPlugin::NotShared { what: "a core dump" }),
        other => return Err(NotAPlugin::Damaged(format!("file type {}", other.0))),
    }

    let programs: &[ProgramHeader64<LE>] = table(
        bytes,
        "the program headers",
        header.e_phoff.get(LE),
        header.e_phnum.get(LE).into(),
        header.e_phentsize.get(LE),
    )?;
    if !programs.iter().any(|program| program.p_type.get(LE) == elf::PT_LOAD) {
        return Err(NotAPlugin::Damaged("it has nothing to load".to_owned()));
    }
    for (index, program) in programs.iter().enumerate() {
        let end = u128::from(program.p_offset.get(LE)) + u128::from(program.p_filesz.get(LE));
        if end > bytes.len() as u128 {
            return Err(truncated(format!("the contents of segment {index}"), end, bytes));
        }
    }

    // 0 sections with an offset mean "more than 65,279, see the first one"; no compiler makes a plugin like that.
    let sections: &[SectionHeader64<LE>] = table(
        bytes,
        "the section headers",
        header.e_shoff.get(LE),
        header.e_shnum.get(LE).into(),
        header.e_shentsize.get(LE),
    )?;
    for (index, section) in sections.iter().enumerate() {
        if section.sh_type.get(LE) == elf::SHT_NOBITS {
            continue;
        }
        let end = u128::from(section.sh_offset.get(LE)) + u128::from(section.sh_size.get(LE));
        if end > bytes.len() as u128 {
            return Err(truncated(format!("the contents of section {index}"), end, bytes));
        }
    }

    let interpreted = programs.iter().any(|program| program.p_type.get(LE) == elf::PT_INTERP);
    Ok(if interpreted { "an executable" } else { "a shared library" })
}

/// A header table of `count` entries at `offset`, if it lies within the file.
fn table<'a, T: object::pod::Pod>(
    bytes: &'a [u8],
    what: &str,
    offset: u64,
    count: usize,
    entry_bytes: u16,
) -> Result<&'a [T], NotAPlugin> {
    if count == 0 {
        return Ok(&[]);
    }
    if usize::from(entry_bytes) != size_of::<T>() {
        return Err(NotAPlugin::Damaged(format!(
            "{what} should have {} bytes each, the file says {entry_bytes}",
            size_of::<T>()
        )));
    }
    let end = u128::from(offset) + (count * size_of::<T>()) as u128;
    usize::try_from(offset)
        .ok()
        .and_then(|offset| bytes.get(offset..))
        .and_then(|rest| object::pod::slice_from_bytes::<T>(rest, count).ok())
        .map(|(table, _)| table)
        .ok_or_else(|| {
            if end > bytes.len() as u128 {
                truncated(what, end, bytes)
            } else {
                NotAPlugin::Damaged(format!("{what} start at byte {offset}, which is not aligned"))
            }
        })
}

/// Looks the root module up in the dynamic symbols, as dlsym would.
fn check_root_module(bytes: &[u8], what: &'static str) -> Result<(), NotAPlugin> {
    let damaged = |error: object::Error| NotAPlugin::Damaged(error.to_string());
    let file = ElfFile64::<LE>::parse(bytes).map_err(damaged)?;
    let mut symbols = file.dynamic_symbols();
    let root = symbols
        .find(|symbol| symbol.is_definition() && symbol.name() == Ok(ROOT_MODULE_LOADER_NAME))
        .ok_or(NotAPlugin::NoRootModule { what })?;
    // What loading does first is to read this object's magic string: it must be an object, and long enough.
    if root.kind() != SymbolKind::Data || root.size() < size_of::<AbiHeader>() as u64 {
        return Err(NotAPlugin::Damaged(format!(
            "`{ROOT_MODULE_LOADER_NAME}` is {:?} of {} bytes, not a library header",
            root.kind(),
            root.size()
        )));
    }
    Ok(())
}

fn machine_name(machine: u16) -> String {
    match elf::Machine(machine) {
        elf::EM_X86_64 => "x86_64".to_owned(),
        elf::EM_AARCH64 => "aarch64".to_owned(),
        elf::EM_386 => "x86".to_owned(),
        elf::EM_ARM => "ARM".to_owned(),
        elf::EM_RISCV => "RISC-V".to_owned(),
        elf::EM_PPC64 => "PowerPC 64".to_owned(),
        elf::EM_S390 => "s390x".to_owned(),
        elf::EM_LOONGARCH => "LoongArch".to_owned(),
        elf::EM_CUDA => "an NVIDIA GPU".to_owned(),
        _ => format!("ELF machine {machine}"),
    }
}

/// What a file that is not ELF is, from its first bytes.
fn describe(bytes: &[u8]) -> &'static str {
    let starts = |magic: &[u8]| bytes.starts_with(magic);
    if bytes.is_empty() {
        "an empty file"
    } else if starts(b"\xcf\xfa\xed\xfe") || starts(b"\xce\xfa\xed\xfe") {
        "a Mach-O file (macOS)"
    } else if starts(b"\xca\xfe\xba\xbe") {
        "a Mach-O universal file (macOS)"
    } else if starts(b"MZ") {
        "a PE file (Windows)"
    } else if starts(b"!<arch>\n") {
        // A Rust library holds its metadata as a member of this name; a large symbol table may come before it.
        if bytes.windows(9).any(|window| window == b"lib.rmeta") { "a Rust rlib" } else { "a static library (.a)" }
    } else if starts(b"#!") {
        "a script"
    } else if starts(b"\0asm") {
        "a WebAssembly module"
    } else if starts(b"PK\x03\x04") || starts(b"\x1f\x8b") || starts(b"\xfd7zXZ") {
        "a compressed archive"
    } else if is_text(&bytes[..bytes.len().min(4096)]) {
        "a text file"
    } else {
        "an unknown binary file"
    }
}

fn is_text(bytes: &[u8]) -> bool {
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text,
        // The cut at 4096 bytes may split one character.
        Err(error) if error.error_len().is_none() => return error.valid_up_to() > 0,
        Err(_) => return false,
    };
    !text.contains(|c: char| c.is_control() && !c.is_whitespace())
}
