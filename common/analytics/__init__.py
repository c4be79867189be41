"""Analytics: what is asked of customers as public constants, and what noisy answers say.

A question is frozen data: how one customer's row is made (`client.analytics` makes it), what the
sum of all rows says, and beforehand what noise would do to it. Nothing here sees a customer:
everything is computed from released sums and public numbers, so it costs no ε.
"""
