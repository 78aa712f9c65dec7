"""The demonstration: 4,000 pairs of sentences, which a grammar of this project wrote (Apache-2.0, like the code).

A pair is one event in two wordings, or two events of the same kind from the same trade.
"""
