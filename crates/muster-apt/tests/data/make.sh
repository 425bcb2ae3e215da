#!/bin/sh
# Makes the keys and signed texts of this folder anew, with GnuPG in a folder of its own:
#   sh make.sh
# The tests pass the time in, so nothing here goes stale. Secret keys are thrown away.
set -eu
cd "$(dirname "$0")"
home=$(mktemp -d)
trap 'gpgconf --homedir "$home" --kill all; rm -rf "$home"' EXIT
g() { gpg --homedir "$home" --batch --quiet --no-tty --pinentry-mode loopback --passphrase '' "$@"; }
at() { time=$1; shift; g --faked-system-time "$time!" "$@"; }
fingerprint() { g --with-colons --list-keys "$1" | sed -n 's/^fpr:*\([0-9A-F]*\):.*/\1/p' | head -1; }

for name in good other revoked; do
    at 20250101T000000 --quick-gen-key "$name@archive.example" ed25519 sign,cert never
done
at 20250101T000000 --quick-gen-key expired@archive.example ed25519 sign,cert 20250201T000000
at 20250101T000000 --quick-gen-key small@archive.example rsa1024 sign,cert never
at 20250101T000000 --quick-gen-key subkey@archive.example ed25519 cert never
at 20250101T000000 --quick-add-key "$(fingerprint subkey@archive.example)" ed25519 sign never

{
    printf 'Origin: Example\nSuite: stable\nCodename: one\nDate: Wed, 15 Jan 2025 00:00:00 UTC\n'
    printf 'Valid-Until: Wed, 22 Jan 2025 00:00:00 UTC\nDescription: text with blanks at the end  \n'
    printf ' - a line with a dash\nSHA256:\n'
    printf ' e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855 0 main/binary-amd64/Packages\n'
    printf -- '-Dash: first\n'
} >release.txt
sign() { # file, signing options
    out=$1; shift
    at 20250115T000000 --clearsign --output - "$@" release.txt >"$out.InRelease"
}
for name in good other expired revoked subkey; do sign "$name" -u "$name@archive.example"; done
sign small --digest-algo SHA256 -u small@archive.example
sign two -u other@archive.example -u good@archive.example
sign sha1 --digest-algo SHA1 --allow-weak-digest-algos -u good@archive.example
sign shortlived --default-sig-expire 20250120T000000 -u good@archive.example

g --export --armor good@archive.example >good.asc
g --export good@archive.example subkey@archive.example expired@archive.example >several.gpg
g --export expired@archive.example >expired.gpg
g --export small@archive.example >small.gpg
# GnuPG writes a revocation certificate at creation; a colon keeps it from being imported by accident.
sed 's/^:-----BEGIN/-----BEGIN/' "$home/openpgp-revocs.d/$(fingerprint revoked@archive.example).rev" | g --import
g --export revoked@archive.example >revoked.gpg
