"""The claims of *Learn To Pay Attention* (Jetley et al., ICLR 2018), measured here as far as data and weights go.

``finding`` says what a verdict is, ``claims`` turns measurements into findings, ``plan`` and ``run`` measure, ``page``
writes them down. `
"""
