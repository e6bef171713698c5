"""Reference calculations: from structures to labels that were paid for once and may be trusted."""
