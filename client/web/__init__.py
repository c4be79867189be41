"""What a region's web services share: guarded requests, problems, sessions, languages, looks."""
