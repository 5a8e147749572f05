"""The computing side in another process: `client` stands for it in a worker, `server` answers in the engine process."""
