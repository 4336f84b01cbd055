"""`python -m bert_jax` is `bert-jax`."""

from bert_jax.cli.main import main

main()
