package main

import (
	"fmt"
	"io"
	"net/http"
	"sync/atomic"
)

// shop holds the four applications. They know nothing of certificates or of
// the policy: that is the sidecars' work.
type shop struct {
	gateway, frontend, orders, payments *service

	// paymentsRestarting makes payments answer one charge with 503.
	paymentsRestarting atomic.Bool
}

func openShop(gateway, frontend, orders, payments *service) *shop {
	s := &shop{gateway: gateway, frontend: frontend, orders: orders, payments: payments}

	gateway.handle("/{path...}", relay(gateway, frontend))

	frontend.handle("GET /products", answer(http.StatusOK, "tea, coffee, honey"))
	frontend.handle("/orders", relay(frontend, orders))
	frontend.handle("/orders/{id}", relay(frontend, orders))
	frontend.handle("POST /refunds/{id}", relay(frontend, payments))

	orders.handle("POST /orders", s.placeOrder)
	orders.handle("GET /orders/{id}", answer(http.StatusOK, "packed"))
	orders.handle("DELETE /orders/{id}", answer(http.StatusOK, "cancelled"))

	payments.handle("POST /charges", s.charge)
	payments.handle("POST /refunds/{id}", answer(http.StatusOK, "refunded"))
	return s
}

func answer(status int, text string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		fmt.Fprintln(w, text)
	}
}

// relay passes a request on as it is.
func relay(from, to *service) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		status, text := from.call(r, r.Method, to, r.URL.Path)
		answer(status, text)(w, r)
	}
}

// placeOrder charges the customer, and once more if payments is not there.
func (s *shop) placeOrder(w http.ResponseWriter, r *http.Request) {
	status, text := s.orders.call(r, http.MethodPost, s.payments, "/charges")
	if status == http.StatusServiceUnavailable {
		again := r.WithContext(withResend(r.Context(), 1))
		status, text = s.orders.call(again, http.MethodPost, s.payments, "/charges")
	}
	if status != http.StatusOK {
		answer(http.StatusBadGateway, text)(w, r)
		return
	}
	answer(http.StatusCreated, "order 1001 placed")(w, r)
}

func (s *shop) charge(w http.ResponseWriter, r *http.Request) {
	if s.paymentsRestarting.CompareAndSwap(true, false) {
		answer(http.StatusServiceUnavailable, "restarting")(w, r)
		return
	}
	answer(http.StatusOK, "charged")(w, r)
}

// passedOn are the headers that every application of the shop copies from the
// request that it serves to the calls that it makes for it. The last two are a
// mistake that real gateways make: they should have been removed at the edge.
var passedOn = []string{requestIDHeader, "X-Spiffe-Id", "X-Forwarded-Client-Cert"}

// call makes one call on behalf of the request r. A call that fails is told as
// 502.
func (s *service) call(r *http.Request, method string, to *service, path string) (status int, text string) {
	out, err := http.NewRequestWithContext(r.Context(), method, "http://"+to.host()+path, nil)
	if err != nil {
		return http.StatusBadGateway, err.Error()
	}
	for _, name := range passedOn {
		if value := r.Header.Get(name); value != "" {
			out.Header.Set(name, value)
		}
	}
	resp, err := s.client.Do(out)
	if err != nil {
		return http.StatusBadGateway, err.Error()
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return http.StatusBadGateway, err.Error()
	}
	return resp.StatusCode, string(body)
}
