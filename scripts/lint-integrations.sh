#!/bin/sh
# Checks the templates in integrations/ and .github/ against the schemas of their services. actionlint also checks expressions and
# the inputs of the action; it is compiled from its Go module if there is a Go compiler.
set -eu
cd "$(dirname "$0")/.."
bin=${1:-.venv/bin}

"$bin/check-jsonschema" --builtin-schema vendor.github-actions integrations/github/action.yml
"$bin/check-jsonschema" --builtin-schema vendor.github-workflows integrations/github/workflow.yml
"$bin/check-jsonschema" --builtin-schema vendor.gitlab-ci --data-transform gitlab-ci integrations/gitlab/warmstart.yml
"$bin/check-jsonschema" --builtin-schema vendor.github-issue-forms .github/ISSUE_TEMPLATE/bug.yml \
    .github/ISSUE_TEMPLATE/feature.yml
"$bin/check-jsonschema" --builtin-schema vendor.github-issue-config .github/ISSUE_TEMPLATE/config.yml

if command -v actionlint >/dev/null; then
    run_actionlint() { actionlint "$@"; }
elif command -v go >/dev/null; then
    run_actionlint() { go run github.com/rhysd/actionlint/cmd/actionlint@v1.7.12 "$@"; }
else
    echo "integrations/github: not checked by actionlint: neither actionlint nor go is installed"
    exit 0
fi
# actionlint finds local actions only in a repository with its workflows in .github.
project=$(mktemp -d)
trap 'rm -rf "$project"' EXIT
mkdir -p "$project/.git" "$project/.github/workflows" "$project/integrations"
cp -r integrations/github "$project/integrations/"
cp integrations/github/workflow.yml "$project/.github/workflows/warm.yml"
cd "$project"
run_actionlint .github/workflows/warm.yml
