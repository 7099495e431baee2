"""The paper's figures and tables (`advjax reproduce`), each a module: `targets` lists them."""
