package access

import (
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha512"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// Iterations is how often a new password is hashed.
//
// It is what a Pi Zero can bear. One iteration is 60,000 instructions of the
// ARMv6 build (counted under emulation; the standard library has no assembly
// for it there), which at 1 GHz and one to one and a half cycles for each makes
// 60 to 90 µs, and a login 0.24 to 0.36 s. Two run at once, and a client gives
// up after ten seconds or so. A login takes 4 ms of an amd64 server. Mosquitto
// writes 101, since 2.1 1000. What guards a password beyond that is its length,
// the back-off, and a file that nobody else may read.
const Iterations = 4000

const (
	saltSize       = 12 // the only one that mosquitto 2.0 takes
	maxSalt        = 64 // mosquitto 2.1 writes as many
	mostIterations = 10_000_000
)

// A hash is what a file keeps of a password.
type hash struct {
	iterations int // of PBKDF2-HMAC-SHA512 ($7$); 0: SHA-512, once ($6$)
	salt, sum  []byte
}

func newHash(password []byte) (hash, error) {
	h := hash{iterations: Iterations, salt: make([]byte, saltSize)}
	rand.Read(h.salt) // never fails
	var err error
	h.sum, err = h.digest(password)
	return h, err
}

func (h hash) digest(password []byte) ([]byte, error) {
	if h.iterations == 0 {
		sum := sha512.Sum512(append(append([]byte(nil), password...), h.salt...))
		return sum[:], nil
	}
	return pbkdf2.Key(sha512.New, string(password), h.salt, h.iterations, sha512.Size)
}

// verify says whether h is of password, in a time that does not tell by how
// much it is not.
func (h hash) verify(password []byte) bool {
	sum, err := h.digest(password)
	return err == nil && subtle.ConstantTimeCompare(sum, h.sum) == 1
}

// String is h as it stands in a file.
func (h hash) String() string {
	encode := base64.StdEncoding.EncodeToString
	if h.iterations == 0 {
		return "$6$" + encode(h.salt) + "$" + encode(h.sum)
	}
	return fmt.Sprintf("$7$%d$%s$%s", h.iterations, encode(h.salt), encode(h.sum))
}

// parseHash reads what String writes. Its error says what is wrong, behind
// "the password of NAME ", and quotes nothing.
func parseHash(s string) (hash, error) {
	var h hash
	rest, once := strings.CutPrefix(s, "$6$")
	if !once {
		var ok bool
		if rest, ok = strings.CutPrefix(s, "$7$"); !ok {
			return h, unknownHash(s)
		}
		count, after, _ := strings.Cut(rest, "$")
		n, err := strconv.Atoi(count)
		if err != nil || n < 1 || n > mostIterations || strconv.Itoa(n) != count {
			return h, fmt.Errorf("has no count of iterations between 1 and %d", mostIterations)
		}
		h.iterations, rest = n, after
	}
	salt, sum, _ := strings.Cut(rest, "$")
	var err1, err2 error
	h.salt, err1 = base64.StdEncoding.Strict().DecodeString(salt)
	h.sum, err2 = base64.StdEncoding.Strict().DecodeString(sum)
	if err1 != nil || err2 != nil || len(h.salt) == 0 || len(h.salt) > maxSalt || len(h.sum) != sha512.Size || strings.ContainsAny(s, "\r\n") {
		return h, errors.New("is damaged")
	}
	return h, nil
}

func unknownHash(s string) error {
	switch {
	case s == "":
		return errors.New("is missing")
	case strings.HasPrefix(s, "$argon2"):
		return errors.New("is hashed with argon2, which this broker does not check")
	case strings.HasPrefix(s, "$2a$"), strings.HasPrefix(s, "$2b$"), strings.HasPrefix(s, "$2y$"):
		return errors.New("is hashed with bcrypt, which this broker does not check")
	case strings.HasPrefix(s, "$"):
		return errors.New("is hashed in a way that this broker does not check")
	}
	return errors.New("stands there for all to read")
}
