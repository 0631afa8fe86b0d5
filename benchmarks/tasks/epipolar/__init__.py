"""WxBS: pairs with correspondences marked by hand, its protocols, and the task that runs methods over them."""
