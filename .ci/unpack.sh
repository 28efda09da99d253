# Functions for scripts that use programs of a newer Debian without installing them. Source this file.
#
# The packages come from the archives that this machine's apt already uses, and apt checks their signatures as it
# does for any package. They are unpacked into a directory; nothing outside of it changes.

# apt with sources, lists and downloads below $1; proxies and transports are those of the machine. An archive that
# was frozen at some day serves as well: apt checks its signature and not its age.
private_apt() {
  local directory=$1
  shift
  apt-get --quiet=2 \
    -o Dir::Etc::SourceList="$directory/sources.list" -o Dir::Etc::SourceParts=/dev/null \
    -o Dir::State::Lists="$directory/lists" -o Dir::Cache="$directory/archives" \
    -o Acquire::Check-Valid-Until=false -o Acquire::Languages=none -o APT::Sandbox::User="$(id -un)" "$@"
}

# The archives of the machine's own sources, without those that only hold security updates.
archives() {
  apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | grep -v security | sort -u
}

# Unpack packages of a suite, and with `closure` all that they depend on, into DIRECTORY/root.
# unpack alone|closure SUITE DIRECTORY PACKAGE...
unpack() {
  local extent=$1 suite=$2 directory=$3 archive package
  shift 3
  mkdir -p "$directory/lists/partial" "$directory/archives/archives/partial" "$directory/root"
  for archive in $(archives); do
    echo "deb $archive $suite main" >"$directory/sources.list"
    if private_apt "$directory" update -o APT::Update::Error-Mode=any && download "$extent" "$directory" "$@"; then
      for package in "$directory"/archives/archives/*.deb; do
        dpkg-deb --extract "$package" "$directory/root"
      done
      rm -rf "$directory/lists" "$directory/archives" "$directory/sources.list"
      return
    fi
  done
  echo "no archive among this machine's apt sources has $* in $suite" >&2
  return 1
}

download() {
  local extent=$1 directory=$2
  shift 2
  if [[ $extent == closure ]]; then
    # With an empty list of what is installed, apt fetches every dependency.
    private_apt "$directory" -o Dir::State::Status=/dev/null --yes --no-install-recommends --download-only install "$@"
  else
    (cd "$directory/archives/archives" && private_apt "$directory" download "$@")
  fi
}
