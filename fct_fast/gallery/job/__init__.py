"""One backfill, step by step: plan, ledger, run, verify, cutover."""
