"""The demonstration: 4,000 pairs of sentences, which a grammar of this project wrote (Apache-2.0, like the code)."""
