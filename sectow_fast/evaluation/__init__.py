"""Any model on any suite by any judge: replies, verdicts, rates, and files other tools read."""
