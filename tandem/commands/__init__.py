"""One file per subcommand of `tandem`: its options, its question, its answer as text and as JSON."""
