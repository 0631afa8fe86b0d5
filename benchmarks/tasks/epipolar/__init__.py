"""WxBS: pairs with points marked by hand, its protocols, and the task that runs methods over them."""
