"""The gRPC server for BART: `python -m bart_server`.

One request's life:

    guard      who may call; every error becomes a gRPC status
    service    count, bytes and fields are checked; a refusal here costs nothing
    scheduler  a place is reserved (refused at once when the house is full)
    text       the text becomes token ids, a long one in a thread pool
    engine     the options are checked and packed; the request gets a lane: beam width, sampling, source length
    scheduler  admitted by padded tokens x beams, queued by deadline, encoded with others, inserted into free rows of
               the running batch; after each chunk of steps tokens are delivered, finished and cancelled rows leave
    text       token ids become text again
    service    the answer, or the stream's next piece

`types` says what the layers tell each other, `fake` is an engine to compute by hand, `engine` the one that runs BART.
"""
