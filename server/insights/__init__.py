"""The page of insights: what regions' released answers say of customers, with intervals and ε.

Everything is read off `common.analytics.answers.ReleasedAnswers`: noisy sums that left the regions
already. Making the page spends nothing, and nothing here sees a region's records.
"""
