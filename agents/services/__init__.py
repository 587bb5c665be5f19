"""The services of a node: agents like any others, which root starts before what the user wrote. One package each."""
