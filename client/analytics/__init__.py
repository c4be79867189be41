"""A region's part of analytics: what each customer adds to the answer to a question.

A question (`common.analytics`) says what a row is; here rows are made of facts, vectorised, each
customer's from her own facts alone and no longer than 1. They are summed, noised, charged and
logged like any query's (`client.training.bounded_sums`, `client.engine.answering`).
"""
