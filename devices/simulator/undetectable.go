package simulator

import (
	"bytes"
	"encoding/hex"
	"slices"
)

// undetectable reports whether what arrives in place of truth, the answer to a
// read, holds another answer to the same question with a right checksum.
// answers finds the bodies, unit id and PDU, with a right checksum in what
// arrives, of the length of truth's.
func undetectable(truth, arrives []byte, answers func(frame []byte, n int) [][]byte) bool {
	own := answers(truth, len(truth))
	if len(own) == 0 || !hasCount(own[0]) {
		return false
	}
	head := own[0][:3] // unit id, function, byte count
	return slices.ContainsFunc(answers(arrives, len(truth)), func(body []byte) bool {
		return bytes.HasPrefix(body, head) && !bytes.Equal(body, own[0])
	})
}

// hasCount reports whether a body is the answer to a read: what else answers is
// compared with the request byte by byte.
func hasCount(body []byte) bool {
	return len(body) > 3 && (body[1] >= 1 && body[1] <= 4 || body[1] == 23)
}

// rtuAnswers returns the bodies of the frames of n bytes in what arrives.
func rtuAnswers(arrives []byte, n int) (bodies [][]byte) {
	for at := 0; at+n <= len(arrives) && n > 2; at++ {
		f := arrives[at : at+n]
		if sum := crc16(f[:n-2]); f[n-2] == byte(sum) && f[n-1] == byte(sum>>8) {
			bodies = append(bodies, f[:n-2])
		}
	}
	return bodies
}

// asciiAnswers is rtuAnswers for ASCII.
func asciiAnswers(arrives []byte, n int) (bodies [][]byte) {
	for at := 0; at+n <= len(arrives) && n > 5; at++ {
		f := arrives[at : at+n]
		if f[0] != ':' || f[n-2] != '\r' || f[n-1] != '\n' {
			continue
		}
		raw, err := hex.DecodeString(string(f[1 : n-2]))
		if err != nil {
			continue
		}
		sum := byte(0)
		for _, b := range raw {
			sum += b
		}
		if sum == 0 {
			bodies = append(bodies, raw[:len(raw)-1])
		}
	}
	return bodies
}
