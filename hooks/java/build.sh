#!/bin/sh
# Build the Java agent, agent.jar, into a directory.
#
#   build.sh OUTPUT_DIRECTORY
#
# Run it in a Debian root with the packages of `build-packages`, or on any machine with a JDK (17 or later) and curl.
# org.crac's interface comes from Maven Central, with the license that its sources carry. CRAC_DIRECTORY names a
# directory that has the two files already.
set -eu

crac=1.5.0
crac_sha256=f4426e1641c8f0fa2f025a4cd7c40c285abaf265930e6717adfcaef03d034850
sources_sha256=56f6a3d9b292cecdb2bd7d13debd7d440d6d41358e215142d75aa499fbe96747
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1"
out=$(cd "$1" && pwd)
# The same sources give the same bytes.
date=2025-01-01T00:00:00Z
# The build's own javac is not under the influence of the caller.
unset JAVA_TOOL_OPTIONS JDK_JAVA_OPTIONS JDK_JAVAC_OPTIONS

work=$(mktemp -d)
trap 'rm -r "$work"' EXIT
cd "$work"

# get NAME SHA256: the file of org.crac's release.
get() {
    if [ -n "${CRAC_DIRECTORY:-}" ]; then
        cp "$CRAC_DIRECTORY/$1" .
    else
        curl --silent --show-error --fail --retry 3 -O "https://repo1.maven.org/maven2/org/crac/crac/$crac/$1"
    fi
    echo "$2  $1" | sha256sum --check --quiet
}
get "crac-$crac.jar" "$crac_sha256"
get "crac-$crac-sources.jar" "$sources_sha256"

mkdir classes license
(cd classes && jar --extract --file "../crac-$crac.jar" org)
# Nothing calls this but applications, and they have it themselves.
rm -r classes/org/crac/management
(cd license && jar --extract --file "../crac-$crac-sources.jar" org/crac/Core.java)
mkdir -p classes/META-INF/licenses
sed -e '/^package/,$d' -e 's|^// \{0,1\}||' license/org/crac/Core.java > classes/META-INF/licenses/org.crac.txt
grep -q 'Redistributions in binary form' classes/META-INF/licenses/org.crac.txt

# Without the tables of lines, and with few classes to load: the jar is in every image, and read at every start.
compile() { javac -Xlint:all,-options -Werror -g:none -XDstringConcat=inline "$@"; }
# The entry is for Java 8, so that an older JVM starts it and it can step aside.
compile --release 8 -d classes "$here/src/warmstart/hooks/Agent.java"
compile --release 11 -cp classes -d classes \
    $(find "$here/src" -name '*.java' ! -name Agent.java)
# A class that the agent adds to the JDK's own; it is data until then.
compile -source 11 -target 11 \
    --patch-module "java.base=$here/java.base" -d java.base "$here/java.base/java/util/WarmstartInstances.java"
cp java.base/java/util/WarmstartInstances.class classes/warmstart/hooks/WarmstartInstances.bin

printf '%s\n' 'Premain-Class: warmstart.hooks.Agent' 'Can-Retransform-Classes: true' > manifest
(cd classes && find org warmstart META-INF -type f ! -name package-info.class | LC_ALL=C sort > ../files)
(cd classes && jar --create --file "$out/agent.jar" --manifest ../manifest --date "$date" @../files)
