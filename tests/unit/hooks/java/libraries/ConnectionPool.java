package org.apache.tomcat.jdbc.pool;

/** A pool with the methods that tomcat-jdbc's has. */
public class ConnectionPool {

    private int size;

    public ConnectionPool(int size) {
        this.size = size;
    }

    public void purge() {
        size = 0;
    }

    public int getSize() {
        return size;
    }
}
