"""What a run leaves behind: records, the summary computed from them, references and the gate."""
