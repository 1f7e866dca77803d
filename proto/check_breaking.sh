#!/bin/sh
# Checks that the contract only grew: against origin/main, or against the commit before when this is origin/main.
# A clone with a single commit has nothing older: its working tree is checked against that commit.
set -eu
cd "$(dirname "$0")"

before=HEAD
if git rev-parse --quiet --verify HEAD~1 >/dev/null; then before=HEAD~1; fi
main=$(git rev-parse --quiet --verify origin/main || true)
if [ -n "$main" ] && [ "$main" != "$(git rev-parse HEAD)" ]; then before=$main; fi

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
if ! git cat-file -e "$before:./buf.yaml" 2>/dev/null; then
    echo "no contract in $before: nothing can break"
    exit 0
fi
git archive "$before" . | tar -x -C "$scratch"
node_modules/.bin/buf breaking --against "$scratch"
