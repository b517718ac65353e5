//! GGUF files: reading and importing (being written).
