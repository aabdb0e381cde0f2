"""Code search for coding agents: a server of the Model Context Protocol over the indexes of source trees."""
