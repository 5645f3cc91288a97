"""Warnings that a number cannot be trusted: each with a code, plain words, evidence and what to do.

`model.check_model` looks at a model on a few images before a sweep; `records.check_records` and `data.check_card` look at
what a sweep found; `robustatt.doctor.deep` attacks the model for an answer. docs/health.md lists every code with its threshold.
"""
