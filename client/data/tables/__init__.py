"""The region's further tables: what customers do, say and are shown besides what they buy.

A declaration says where each table is and what its columns mean (`declaration`), in the words of
one schema (`schema`). Rows are read (`rows`, `reading`), followed as they come (`following`), and
put beside the purchases of consenting customers for what is asked of them (`joining`). Reading
judges no more than whether a value is what its column may hold; standards and their governance are
`client.data.standards`.
"""
