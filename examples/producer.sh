#!/bin/sh
# A producer with nothing but curl, by the broker's management API.
#
#   MANAGEMENT_URL=http://broker:15672 BROKER_USER=user:password VHOST=/ producer.sh WebClient Web       everybody's rows
#   MANAGEMENT_URL=http://broker:15672 BROKER_USER=user:password VHOST=/ producer.sh WebClient Web 42    associate 42's
#
# Ends with 0 when the broker says that it has put the command into a queue. For a cron job or a deployment; RabbitMQ does
# not recommend this way for many messages. The user needs the tag `management` beside the rights of a producer.
set -eu

fail() {
    echo "not published: $*" >&2
    exit 1
}

[ $# -eq 2 ] || [ $# -eq 3 ] || fail "usage: producer.sh APPLICATION INSTANCE [ASSOCIATE]"
case "$1$2" in *[!A-Za-z0-9\ ._-]*) fail "this script takes names of letters, digits, space, dot, _ and - only" ;; esac
case "${3:-1}" in *[!0-9]* | 0*) fail "an associate's id has digits only" ;; esac

whose='\"ForAllAssociates\":true'
[ $# -eq 2 ] || whose="\\\"ForAllAssociates\\\":false,\\\"AssociateId\\\":$3"
payload="{\\\"Application\\\":\\\"$1\\\",\\\"Instance\\\":\\\"$2\\\",$whose}"
vhost=$(printf %s "$VHOST" | sed 's|/|%2F|g')

# The user goes by standard input: arguments are in the list of processes, for all to see.
answer=$(printf 'user = "%s"\n' "$BROKER_USER" | curl --config - --silent --show-error --fail --max-time 10 \
    --header 'content-type: application/json' --data "{
        \"routing_key\": \"clear-configuration-cache.v1\", \"payload_encoding\": \"string\", \"payload\": \"$payload\",
        \"properties\": {\"content_type\": \"application/json\", \"type\": \"ClearConfigurationCache\", \"delivery_mode\": 2}
    }" "$MANAGEMENT_URL/api/exchanges/$vhost/configuration/publish") || fail "the broker did not answer as it should"

[ "$answer" = '{"routed":true}' ] || fail "no queue is bound for the command: run \`configcache topology\` once"
echo published
