package main

import (
	"encoding/json"
	"net/http"
	"strconv"
)

// The running gateway answers `gateway buffer` over the control socket.

// messagesError is the trailer that says why a list of messages is not whole.
const messagesError = "Gateway-Error"

// serveBuffers adds what concerns buffers to the control socket.
func (c *control) serveBuffers(mux *http.ServeMux) {
	mux.HandleFunc("GET /buffer", func(w http.ResponseWriter, _ *http.Request) { answer(w, c.buffers().list(), nil) })
	mux.HandleFunc("GET /buffer/messages", c.getMessages)
	mux.HandleFunc("GET /buffer/verify", func(w http.ResponseWriter, r *http.Request) {
		reports, err := c.buffers().verify(r.Context())
		answer(w, reports, err)
	})
	mux.HandleFunc("POST /buffer/purge", c.postPurge)
}

// getMessages lists what a consumer is owed, a line of JSON each.
func (c *control) getMessages(w http.ResponseWriter, r *http.Request) {
	limit, _ := strconv.Atoi(r.FormValue("limit"))
	w.Header().Set("Trailer", messagesError)
	out, begun := json.NewEncoder(w), false
	err := c.buffers().messages(r.Context(), r.FormValue("consumer"), limit, func(m *BufferMessage) error {
		if !begun {
			w.Header().Set("Content-Type", "application/x-ndjson")
		}
		begun = true
		return out.Encode(m)
	})
	switch {
	case err == nil:
	case begun:
		w.Header().Set(messagesError, err.Error())
	default:
		w.Header().Del("Trailer")
		answer(w, nil, err)
	}
}

// A purgeRequest names the consumer whose backlog is given up.
type purgeRequest struct {
	Consumer string `json:"consumer"`
}

func (c *control) postPurge(w http.ResponseWriter, r *http.Request) {
	var req purgeRequest
	by, err := request(r, "purge", &req)
	if err != nil {
		answer(w, nil, err)
		return
	}
	p, err := c.buffers().purge(req.Consumer)
	if err == nil {
		c.log.Warn("backlog purged", "consumer", req.Consumer, "n", p.Records, "removed", p.Removed, "by", by)
	}
	answer(w, p, err)
}
