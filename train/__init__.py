"""Training: from folders of labelled clips to a one-file checkpoint and a report on it.

Flow: ``data`` (manifest -> memory-mapped clips -> split) -> ``augment`` (on the device) ->
``loop`` (one compiled step) -> ``evaluate`` (report) -> ``export`` (checkpoint). Imports the
daemon's features and models, so that what is trained is what is served; never the reverse.
"""
