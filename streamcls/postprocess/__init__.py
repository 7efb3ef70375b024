"""From predictions to events: engine -> **postprocess** -> publish.

`detector.EventDetector` is the way in; `settings` is the ``[events]`` table of the configuration.
"""
