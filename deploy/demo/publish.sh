#!/bin/sh
# As any producer would. Done means: confirmed by the broker and in the queue.
set -eux
configcache publish --application WebClient --instance Web --associate 42
configcache publish --application MobileClient --instance Main --for-all-associates
