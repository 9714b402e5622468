"""`TransformerBridge`, method by method, and the ways to come by one."""
