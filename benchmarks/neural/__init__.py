"""The neural opponents, SASRec and eSASRec, each at its best.

windows   train users → windows and the item after each of their positions
layers    item vectors of a window → a state after each position: SASRec's blocks and LiGR's
softmax   states and the next items → a loss: full softmax, or sampled with corrected logQ
model     both put together, by `Settings`
training  a trial: a model on the way, which can be stopped, resumed and measured on the valid users
search    settings → the best of them, by successive halving on the valid users
opponent  the command's work: search, train on, measure the test users once, store
stored    results in `benchmarks/stored`, for `benchmarks.quality` to show
"""
