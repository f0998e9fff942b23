"""The commands of `fairlead`, a file for each thing that they are about; `pipeline.cli` puts them together."""
