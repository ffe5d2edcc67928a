"""Reports: one self-contained HTML page each; no script, nothing loaded from anywhere."""
