"""From a caller and a model's name to an answer: who asks, which backend is meant, which worker replica answers.

The edge dispatches clients' requests so, and codebuff-ws those of its agents.
"""
