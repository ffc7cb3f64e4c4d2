"""Words and wires: the vocabulary, settings, queues, task state and money that every other floor stands on."""
