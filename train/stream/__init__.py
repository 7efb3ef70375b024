"""What a model does in a stream: scenes with known onsets, the daemon's own path, life-like scores.

Flow: held-out clips -> ``scenes`` -> ``hearing`` (the engine and event detector as shipped) ->
``scoring`` and ``psds`` -> ``thresholds`` (chosen on other scenes than those reported) ->
``report``. A score on clips says which class is likeliest in a clip; only this says how often the
daemon cries wolf in an hour.
"""
