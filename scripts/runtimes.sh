#!/bin/sh
# Unpack runtimes that this machine's distribution may lack, so that the tests of hooks run with each of them.
#
#   scripts/runtimes.sh DIRECTORY [java-VERSION|python3.VERSION]...
#
# For each of them (java-11, -17, -21, -25, -27 and python3.14, unless named), DIRECTORY has a program of that name. They
# are those of Debian's unstable distribution, with its C library: a program runs with /usr replaced, in a mount
# namespace of its own. Needs root, apt and dpkg, about 700 MB, and leaves the packages of this machine alone. The tests
# find the programs by WARMSTART_JVMS=DIRECTORY/java-11:DIRECTORY/java-17 and so on, and by WARMSTART_PYTHONS.
set -eu

suite=sid
libraries='libc6 libgcc-s1 libstdc++6 zlib1g'
python_libraries='libbz2-1.0 libexpat1 libffi8 liblzma5 libsqlite3-0 libssl3t64 libuuid1 libzstd1'

[ $# -gt 0 ] || {
    sed -n '2,10s/^# \{0,1\}//p' "$0" >&2
    exit 2
}
mkdir -p "$1"
top=$(cd "$1" && pwd)
shift
[ $# -gt 0 ] || set -- java-11 java-17 java-21 java-25 java-27 python3.14

# packages_of RUNTIME
packages_of() {
    case $1 in
        java-*) echo "openjdk-${1#java-}-jre-headless" ;;
        python*) echo "$1 $1-minimal lib$1-minimal lib$1-stdlib $python_libraries" ;;
        *) echo "${0##*/}: no runtime has the name $1: java-VERSION or python3.VERSION" >&2 && return 2 ;;
    esac
}

# program_of RUNTIME
program_of() {
    case $1 in
        java-*) echo "/usr/lib/jvm/$1-openjdk-$(dpkg --print-architecture)/bin/java" ;;
        python*) echo "/usr/bin/$1" ;;
    esac
}

packages=$libraries
for runtime; do
    packages="$packages $(packages_of "$runtime")"
done

root=$top/root
apt=$top/apt
mkdir -p "$root" "$apt/lists/partial" "$apt/archives/partial"
echo "deb [check-valid-until=no] http://deb.debian.org/debian $suite main" >"$apt/sources.list"
cat >"$apt/conf" <<EOF
Dir::Etc::SourceList "$apt/sources.list";
Dir::Etc::SourceParts "-";
Dir::State::Lists "$apt/lists";
Dir::Cache::Archives "$apt/archives";
Dir::Cache::PkgCache "";
Dir::Cache::SrcPkgCache "";
APT::Sandbox::User "root";
EOF
export APT_CONFIG="$apt/conf"
apt-get --quiet update
cd "$apt/archives"
# shellcheck disable=SC2086
apt-get --quiet download $packages
for package in *.deb; do
    dpkg-deb --extract "$package" "$root"
done
# /etc stays this machine's.
mkdir -p "$root/usr/etc"
find "$root/etc" -maxdepth 1 -name 'java-*' -exec cp -r {} "$root/usr/etc/" \;
find "$root/usr/lib/jvm" -lname '/etc/java-*' 2>/dev/null | while read -r link; do
    ln -snf "/usr$(readlink "$link")" "$link"
done
for runtime; do
    cat >"$top/$runtime" <<EOF
#!/bin/sh
exec unshare --mount sh -c 'mount --bind "\$0" /usr && exec "\$@"' "$root/usr" $(program_of "$runtime") "\$@"
EOF
    chmod +x "$top/$runtime"
done
rm -r "$apt"
